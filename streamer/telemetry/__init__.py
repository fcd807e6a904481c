"""What the worker tells the outside: metrics, health, logs, and the port where they answer."""
