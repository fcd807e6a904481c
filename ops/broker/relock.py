"""`python -m ops.broker.relock`: resolve the roots again and write every jar's SHA-256 into `jars.sha256`."""

import hashlib
import tempfile
from pathlib import Path

from jgo.maven import MavenContext

from ops.broker.jars import LOCK_FILE

ROOTS = ("org.apache.kafka:kafka_2.13:4.1.1", "org.slf4j:slf4j-simple:1.7.36")

_HEADER = """\
# The class path of the local broker: SHA-256 and Maven coordinates of every jar.
# Made by `make lock-broker` from the roots in ops/broker/relock.py; verified before every start.
"""


def main() -> None:
    """Resolve with jgo into an empty folder, hash what came, and replace the lock file."""
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=60)
        roots = [context.create_dependency(root) for root in ROOTS]
        inputs, transitive = context.resolver.resolve(roots)
        lines = [
            f"{hashlib.sha256(Path(dependency.artifact.resolve()).read_bytes()).hexdigest()}  "
            f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
            for dependency in [*inputs, *transitive]
        ]
    lines.sort(key=lambda line: line.split()[1])
    LOCK_FILE.write_text(_HEADER + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
