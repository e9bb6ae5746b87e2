"""What few users can prove: the least number of them, and wider intervals."""

import math

#: Different users of each class, buyers and others, below which rows prove nothing. With unrelated labels, an interval
#: by resampling users lies above the baseline in more than 2.5 % of draws where fewer users bought.
MIN_USERS = 10
#: Half the width of a 95 % interval, in standard errors of a normal distribution.
NORMAL = 1.959964


def student_t(freedom: int) -> float:
    """Half the width of a 95 % interval, in standard errors of Student's t.

    The quantile is expanded in powers of 1 / freedom (Abramowitz and Stegun, 26.7.5). It is 4 % too small at 3 degrees
    of freedom and within 1 % from 5 on.
    """
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def stretch(users: int) -> float:
    """By how much an interval from resampling users must be wider where one class has few of them.

    A percentile bootstrap of n draws is too narrow by sqrt((n - 1) / n), and takes the normal quantile where Student's
    t is due (Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 4).

    Args:
        users: different users of the rarer class, 2 or more.
    """
    return student_t(users - 1) / NORMAL * math.sqrt(users / (users - 1))
