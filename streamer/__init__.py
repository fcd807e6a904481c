"""Keeps user and item factors fresh from a Kafka stream of events, each with its effect exactly once."""
