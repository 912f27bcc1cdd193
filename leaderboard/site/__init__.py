"""The board as a static page: one HTML file and one JSON file, without a server and without a request."""
