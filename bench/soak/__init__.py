"""Mixed traffic against the real server for minutes, and a judgement of what it left behind."""
