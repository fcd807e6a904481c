"""What the broker is told: one KRaft node, quick to start, strict where a real cluster would be strict."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

NODE_ID = 1

# The same for the local broker and the container, so that a test means the same on both.
COMMON: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        # A forgotten topic must fail loudly, as it does in production.
        "auto.create.topics.enable": "false",
        # Time bounds of events are judged against the broker's clock.
        "log.message.timestamp.type": "LogAppendTime",
        "num.partitions": "1",
        "default.replication.factor": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        # Rebalances and take-overs are tested: no grace periods made for large clusters.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        # After a kill, the broker must wait until its former self has timed out (9 s by default).
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "2",
        "log.cleaner.threads": "1",
    }
)


def server_properties(*, port: int, controller_port: int, data: Path, overrides: Mapping[str, str]) -> dict[str, str]:
    """The full configuration of a local broker that listens on the loopback only."""
    return {
        **COMMON,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{controller_port}",
        "log.dirs": str(data),
        **overrides,
    }


def to_properties(config: Mapping[str, str]) -> str:
    """Write a Java properties file."""
    return "".join(f"{key}={value}\n" for key, value in sorted(config.items()))


def to_environment(config: Mapping[str, str]) -> dict[str, str]:
    """Write the same for the official container image: `a.b-c` becomes `KAFKA_A_B___C`."""
    return {
        "KAFKA_" + key.replace("_", "__").replace("-", "___").replace(".", "_").upper(): value
        for key, value in config.items()
    }
