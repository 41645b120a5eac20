"""Replication between clusters: who may write, what travels, and how two states become one.

lineage     epochs and positions: which history a cluster has, where two part
role        what this cluster is in its set, stored, and the moves between roles
authority   the primary's certificate authority, and the certificates of its secondaries
activation  the token that brings a secondary in
claims      the signed word that an epoch was opened, which fences a stale primary
filters     what a secondary may not have
quarantine  writes that only a former primary had
protocol/   sessions without I/O: frames and clock in, frames and work out
link        frames over TLS
"""
