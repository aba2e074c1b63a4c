"""The tables: migrations (Alembic), day partitions and their retention.

DDL is what MySQL 8.4/9 and MariaDB 10.11 both take: no foreign keys (partitioned InnoDB allows none), triggers or
stored procedures.
"""
