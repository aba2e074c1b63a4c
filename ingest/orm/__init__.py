"""The ingest API as most teams would write it: FastAPI, SQLModel, one session per request."""
