"""The only room that names boto3: the object store on a disk or on S3."""

__all__ = ["disk", "folders", "range_file", "storage"]
