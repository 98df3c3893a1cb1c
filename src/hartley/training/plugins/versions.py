"""Which version of TRL the plug-ins are written for."""

WRITTEN_FOR = "1.16"


def require_trl(module: str) -> None:
    """Raise an ``ImportError`` that says what to install where TRL is missing or of another version."""
    try:
        import trl
    except ImportError as error:
        raise ImportError(f'{module} needs TRL: pip install "hartley[trl]"') from error
    check_version(module, trl.__version__)


def check_version(module: str, found: str) -> None:
    """Refuse a version of TRL that ``module`` was not written for, with an ``ImportError`` that names both."""
    if found.split(".")[:2] != WRITTEN_FOR.split("."):
        raise ImportError(f'{module} is written for TRL {WRITTEN_FOR}; got {found}: pip install "trl=={WRITTEN_FOR}.*"')
