"""The batch job: events to a model generation, its artifact, and the topics that the workers start from."""
