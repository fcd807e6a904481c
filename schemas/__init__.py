"""What every topic carries: JSON Schemas, the typed records that decode them, outcomes and byte layouts."""
