"""`undercroft replication`: the commands around `sys/replication`.

commands    their table
primary     what is asked of a primary
secondary   what is asked of a secondary
disable     leaving, of either
filters     what a secondary may not have
quarantine  writes that a failover set aside
status      the status in words
members     what one status, or two in a row, say about every member
waiting     polling the status until a change is done
watch       the status as a table that stays
"""
