"""sys/replication: the roles of this cluster, who may follow it, and how it is going.

primary     enable, demote, disable, secondary-token, revoke-secondary
secondary   enable, promote, disable, update-primary, generate-public-key
status      status, and the repairs: recover, reindex, merkle-check
filters     paths-filter and its older name, dynamic-filter
quarantine  writes that a failover set aside
routes      the families of paths, and the founding page's misspelt ones
"""
