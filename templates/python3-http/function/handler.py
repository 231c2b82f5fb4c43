def handle(event, context):
    if event.method == "GET":
        return {"statusCode": 200, "body": f"Hello from {event.path}\n"}
    return {
        "statusCode": 200,
        "body": event.body,
        "headers": {"Content-Type": event.headers.get("Content-Type", "text/plain")},
    }
