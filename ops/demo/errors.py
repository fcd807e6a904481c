"""Why a demo ends without success."""


class DemoError(Exception):
    """Something did not become as it must; one sentence that says what."""
