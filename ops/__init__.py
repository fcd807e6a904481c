"""What runs the project on a machine: a broker of its own, the demo, dashboards, runbooks."""
