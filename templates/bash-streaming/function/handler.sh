# Standard input is the request's body, standard output the answer. Headers,
# method, path and query are variables: $Http_Content_Type, $Http_Method,
# $Http_Path, $Http_Query. An exit code other than 0 before any output is a 500.
set -eu

if [ "${Http_Method:-}" = GET ]; then
	echo "Hello from $Http_Path"
	exit
fi

cat
