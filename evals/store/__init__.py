"""What a run leaves behind: journals, the result document, statistics, and the repair of a damaged folder."""
