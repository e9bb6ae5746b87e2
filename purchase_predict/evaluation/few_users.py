"""Results on few users: the minimum number of users, and wider intervals.

`benchmarks/few_buyers.py` measures how often a model without skill passes the gate if there are few users.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable

#: The minimum effective number of users of each class (buyers and others). With fewer buyers, the interval of a model
#: without skill lies above the baseline too often: in more than 2.5 % of the simulated test sets. A 95 % interval
#: allows 2.5 %.
MIN_USERS = 10
#: Half the width of a 95 % interval of the normal distribution, in standard errors.
NORMAL = 1.959964


def effective_users(users: Iterable[Hashable]) -> float:
    """The effective number of users (Kish, Survey Sampling, 1965): (sum of n)^2 / sum of n^2, for users with n rows.

    If all users have equally many rows, it is the number of users. It is lower if a few users have most of the rows,
    such as a reseller or an id that many people share.

    Args:
        users: the user of each row of a class.
    """
    rows = Counter(users).values()
    return sum(rows) ** 2 / sum(n**2 for n in rows) if rows else 0.0


def widening(users: Iterable[Hashable]) -> float:
    """The factor by which an interval from resampling users must be widened for a class with these rows.

    The users are counted by their shares of the variance, as in the degrees of freedom of Satterthwaite (1946). A user
    with n rows adds n^2 to the variance, so a few large users may outweigh any number of small ones. A count below
    `MIN_USERS` is raised to `MIN_USERS`. In all simulations with an effective number of users of at least `MIN_USERS`,
    the resulting factor was large enough, within the simulations' error.

    Args:
        users: the user of each row of a class.
    """
    rows = Counter(users).values()
    freedom = sum(n**2 for n in rows) ** 2 / sum(n**4 for n in rows) if rows else 0.0
    return stretch(max(MIN_USERS, freedom))


def student_t(freedom: float) -> float:
    """Half the width of a 95 % interval of Student's t with `freedom` degrees of freedom, in standard errors.

    The quantile is expanded in powers of 1 / freedom (Abramowitz and Stegun, 26.7.5). The result is 4 % too small at 3
    degrees of freedom, and within 1 % of the exact value from 5 on.
    """
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def stretch(users: float) -> float:
    """The factor by which an interval from resampling users must be widened if one class has few users.

    The interval of a percentile bootstrap of n users is too narrow for two reasons: its standard error is too small by
    the factor sqrt((n - 1) / n), and it uses the normal quantile where Student's t is needed (Hesterberg,
    What Teachers Should Know About the Bootstrap, 2015, section 4).

    Args:
        users: users of the rarer class, 2 or more, with equally many rows each.
    """
    return student_t(users - 1) / NORMAL * math.sqrt(users / (users - 1))
