"""The coordinator of a real federation: who belongs to it, what is studied, and the durable tasks between machines."""
