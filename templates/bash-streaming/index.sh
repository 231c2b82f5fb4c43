# Started for each request. Its exit code is the function's.
exec sh ./function/handler.sh
