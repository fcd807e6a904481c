"""The demo: a model on real data, live events, and one new person, on a real Kafka."""
