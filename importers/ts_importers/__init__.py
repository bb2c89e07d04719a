"""Importers: history from elsewhere, page by page, as neutral `Run` rows."""
