"""Pictures, animations and videos: files become RGB pixels."""
