"""Push: the model becomes samples, the spool keeps them, delivery brings them to the ingest APIs."""
