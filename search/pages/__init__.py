"""The sections of the page about a search, `report.html`, and what they are made of."""
