"""The one error that users can mend: shown by the command line without a traceback."""


class PosttrainError(Exception):
    """Wrong input, settings or environment. The message names the thing, the place and the way out."""
