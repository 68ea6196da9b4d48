"""What outlives a run: one SQLite database below `RAYMODAL_HOME`, and the named secrets in it. Imported late: it loads SQLAlchemy."""
