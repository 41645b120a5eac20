"""What replication costs and how fast it is, beside the peers, all in one run on one machine."""
