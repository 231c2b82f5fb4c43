// The server around a function: net/http on loopback, for fwatchdog in http
// mode.
package main

import (
	"cmp"
	"log"
	"net"
	"net/http"
	"os"

	"handler/function"
)

func main() {
	server := &http.Server{
		Addr: net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("http_port"), "8082")),
		// Not a ServeMux: it would redirect paths such as //x.
		Handler: http.HandlerFunc(function.Handle),
	}
	// No time-outs: fwatchdog bounds the reading of requests, and an idle
	// connection that is closed here would be closed under its next request.
	log.Fatal(server.ListenAndServe())
}
