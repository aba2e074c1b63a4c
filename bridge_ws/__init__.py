"""The live feed: MySQL on one side, WebSocket clients and a page that shows the values on the other."""
