"""What travels between a site and the coordinator: calls, codec and TLS profile."""
