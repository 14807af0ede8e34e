"""Parts that several kinds of source share: files, records, images, labels, and the errors about a layout."""
