"""What `make up` and the tests share: a private MariaDB and Prometheus, and the local stack. Not part of the wheel."""
