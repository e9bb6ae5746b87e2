"""Results on few users: the minimum number of users, and wider intervals."""

import math

#: The minimum number of different users of each class (buyers and others). With fewer buyers, the interval of a model
#: without skill lies above the baseline in more than 2.5 % of draws.
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
    """The factor by which an interval from resampling users must be widened if one class has few users.

    A percentile bootstrap of n users is too narrow by sqrt((n - 1) / n), and uses the normal quantile where Student's t
    is needed (Hesterberg, What Teachers Should Know About the Bootstrap, 2015, section 4).

    Args:
        users: different users of the rarer class, 2 or more.
    """
    return student_t(users - 1) / NORMAL * math.sqrt(users / (users - 1))
