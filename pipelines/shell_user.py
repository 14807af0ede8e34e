"""Who is at this shell, by the operating system."""

import os
import pwd


def shell_user() -> str:
    """The log-in name of this process's user, or the number where the host has no name for it.

    LOGNAME and USER, which getpass would read first, are not asked: anybody may set them to anybody's name.
    """
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
