#!/usr/bin/env python3
"""An S3 API server for tests: moto's, made strict. Every request's signature is calculated again by botocore, every body
is compared with the digest that was signed, and faults are made on demand. Objects live in memory.

    s3_server.py PORT KEY SECRET     prints the port once it serves; it has one bucket, "bucket"
    POST /-/fault                    {"kind": ..., "method": "PUT", "match": "partNumber", "skip": 2, "count": 1}
    GET /-/counts                    requests so far by method, and by method and kind of object

Kinds of faults: slow_down (503), cut (the connection ends before the answer), cut_body (in the middle of it), flip (one bit
of the body).
"""
import hashlib
import io
import json
import logging
import os
import re
import socket
import sys
import threading
from collections import Counter
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl

# Read by moto when it is imported: parts may be small, so that small blobs have many; nothing is spilled to the disk.
os.environ.update(S3_UPLOAD_PART_MIN_SIZE="1", MOTO_S3_DEFAULT_KEY_BUFFER_SIZE=str(1 << 30))

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

# What a request is about, by the parameters that say so.
KINDS = ("uploads", "partNumber", "uploadId", "list-type", "X-Amz-Signature")
CLOCK_SKEW = timedelta(minutes=15)


class Refusal(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


def signed_anew(auth_class, environ, credential, signed_headers, query, credentials, **arguments):
    """The signature that botocore gives the request."""
    _, date, region, service, _ = credential.split("/")
    url = f"http://{environ['HTTP_HOST']}{environ['REQUEST_URI'].split('?')[0]}"
    request = AWSRequest(method=environ["REQUEST_METHOD"], url=f"{url}?{query}" if query else url)
    for name in signed_headers.split(";"):
        request.headers[name] = environ["HTTP_" + name.upper().replace("-", "_")]
    request.context["timestamp"] = arguments.pop("time")
    auth = auth_class(credentials, service, region, **arguments)
    assert request.context["timestamp"].startswith(date)
    return auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)


class Strict:
    def __init__(self, app, bucket, key, secret):
        self.app, self.bucket, self.key, self.credentials = app, bucket, key, Credentials(key, secret)
        self.lock, self.faults, self.counts, self.starts = threading.Lock(), [], Counter(), {}

    def check_key(self, credential):
        if credential.split("/")[0] != self.key:
            raise Refusal("403 Forbidden", "InvalidAccessKeyId", "The key is not known.")

    def check_time(self, text, valid):
        passed = datetime.now(timezone.utc) - datetime.strptime(text, "%Y%m%dT%H%M%S%z")
        if not -CLOCK_SKEW < passed < valid:
            raise Refusal("403 Forbidden", "AccessDenied", "Request has expired")

    def check(self, environ, body):
        query = environ.get("QUERY_STRING", "")
        words = dict(parse_qsl(query, keep_blank_values=True))
        try:
            if "X-Amz-Signature" in words:
                self.check_key(words["X-Amz-Credential"])
                self.check_time(words["X-Amz-Date"], timedelta(seconds=int(words["X-Amz-Expires"])))
                unsigned = "&".join(word for word in query.split("&") if not word.startswith("X-Amz-Signature="))
                given = words["X-Amz-Signature"]
                right = signed_anew(S3SigV4QueryAuth, environ, words["X-Amz-Credential"], words["X-Amz-SignedHeaders"],
                                    unsigned, self.credentials, time=words["X-Amz-Date"])
            else:
                fields = dict(word.strip().split("=", 1) for word in environ["HTTP_AUTHORIZATION"].split(" ", 1)[1].split(","))
                self.check_key(fields["Credential"])
                self.check_time(environ["HTTP_X_AMZ_DATE"], CLOCK_SKEW)
                given = fields["Signature"]
                right = signed_anew(S3SigV4Auth, environ, fields["Credential"], fields["SignedHeaders"], query,
                                    self.credentials, time=environ["HTTP_X_AMZ_DATE"])
                if hashlib.sha256(body).hexdigest() != environ["HTTP_X_AMZ_CONTENT_SHA256"]:
                    raise Refusal("400 Bad Request", "XAmzContentSHA256Mismatch", "The body is not what was signed.")
        except (KeyError, ValueError, AssertionError) as error:
            raise Refusal("403 Forbidden", "AccessDenied", f"The request is not signed: {error!r}")
        if given != right:
            raise Refusal("403 Forbidden", "SignatureDoesNotMatch", "The signature is not the one that was calculated.")

    def fault_for(self, environ):
        with self.lock:
            for fault in self.faults:
                if fault["method"] != environ["REQUEST_METHOD"] or fault.get("match", "") not in environ["REQUEST_URI"]:
                    continue
                if fault.get("skip", 0) > 0:
                    fault["skip"] -= 1
                    continue
                fault["count"] = fault.get("count", 1) - 1
                if fault["count"] <= 0:
                    self.faults.remove(fault)
                return fault["kind"]
        return ""

    def control(self, environ, start_response, body):
        with self.lock:
            if environ["PATH_INFO"] == "/-/fault":
                self.faults.append(json.loads(body))
            answer = json.dumps(self.counts).encode()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if environ["PATH_INFO"].startswith("/-/"):
            return self.control(environ, start_response, body)
        words = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        kind = next((name for name in KINDS if name in words), "object")
        with self.lock:
            self.counts[environ["REQUEST_METHOD"]] += 1
            self.counts[f"{environ['REQUEST_METHOD']} {kind}"] += 1
        fault = self.fault_for(environ)
        try:
            self.check(environ, body)
            # moto fails with 500 here.
            if "uploadId" in words and words["uploadId"] not in self.bucket.multiparts:
                raise Refusal("404 Not Found", "NoSuchUpload", "The upload may have been aborted or completed.")
            if fault == "slow_down":
                raise Refusal("503 Slow Down", "SlowDown", "Please reduce your request rate.")
        except Refusal as refusal:
            answer = f"<Error><Code>{refusal.code}</Code><Message>{refusal}</Message></Error>".encode()
            start_response(refusal.status, [("Content-Length", str(len(answer))), ("Content-Type", "application/xml")])
            return [answer]
        if environ["HTTP_HOST"].startswith("bucket."):  # Which moto knows of Amazon's names alone.
            environ["HTTP_HOST"] = environ["HTTP_HOST"].removeprefix("bucket.")
            for name in ("PATH_INFO", "REQUEST_URI", "RAW_URI"):
                environ[name] = "/bucket" + environ[name]
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        chunks = self.app(environ, start_response)
        if kind == "uploads":
            return self.with_times(b"".join(chunks))
        if not fault:
            return chunks
        whole = bytearray(b"".join(chunks))
        if fault == "flip":
            whole[len(whole) // 2] ^= 1
            return [bytes(whole)]
        return self.half(environ, bytes(whole))

    def with_times(self, answer):
        """moto gives every open upload the same start, in 2010."""
        def dated(match):
            return re.sub(b"(?<=<Initiated>)[^<]*", self.starts[match[1]], match[0])

        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()
        for upload in re.findall(rb"<UploadId>([^<]*)<", answer):
            self.starts.setdefault(upload, now)
        return [re.sub(rb"<Upload>.*?<UploadId>([^<]*)<.*?</Upload>", dated, answer, flags=re.S)]

    @staticmethod
    def half(environ, whole):
        yield whole[: len(whole) // 2]
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # Connections are used again, as with real storage.
    disable_nagle_algorithm = True


def main():
    port, key, secret = sys.argv[1:]
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket("bucket", "us-east-1")
    app = Strict(DomainDispatcherApplication(create_backend_app), bucket, key, secret)
    server = make_server("127.0.0.1", int(port), app, threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
