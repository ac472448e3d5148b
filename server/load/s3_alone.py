#!/usr/bin/env python3
"""s3_alone.py ENDPOINT MEBIBYTES: what an S3 server takes and gives without quantd, by the same way: parts of 16 MiB, four
at a time, each with its SHA-256; then ranges of 16 MiB, one after the other. Keys come from the environment."""
import hashlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

PART = 16 << 20


def main():
    endpoint, mebibytes = sys.argv[1], int(sys.argv[2])
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=Config(s3={"payload_signing_enabled": True}))
    name = {"Bucket": "bucket", "Key": "alone"}
    parts = [os.urandom(PART) for _ in range(mebibytes >> 4)]

    def put(number):
        return client.upload_part(**name, UploadId=upload, PartNumber=number + 1, Body=parts[number])["ETag"]

    start = time.monotonic()
    upload = client.create_multipart_upload(**name)["UploadId"]
    with ThreadPoolExecutor(4) as pool:
        tags = list(pool.map(put, range(len(parts))))
    client.complete_multipart_upload(
        **name, UploadId=upload, MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": i + 1} for i, tag in enumerate(tags)]})
    took = time.monotonic() - start
    start = time.monotonic()
    digest = hashlib.sha256()
    for i in range(len(parts)):
        digest.update(client.get_object(**name, Range=f"bytes={i * PART}-{(i + 1) * PART - 1}")["Body"].read())
    back = time.monotonic() - start
    assert digest.digest() == hashlib.sha256(b"".join(parts)).digest()
    client.delete_object(**name)
    size = len(parts) * PART / 1e6
    print(f"the S3 server alone: up {size / took:.0f} MB/s, down {size / back:.0f} MB/s", flush=True)


if __name__ == "__main__":
    main()
