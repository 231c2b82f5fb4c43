// A sample function: an HTTP server that knows nothing of watchdogs, signals
// or limits. It listens on 127.0.0.1, on the port in http_port (3000).
//
//	GET  /            a greeting
//	GET  /slow?ms=250 a greeting after so many milliseconds
//	POST /echo        the request's body, as it comes
//	GET  /sse?n=5     so many server-sent events, ten a second
//	GET  /env         the environment it was started with
package main

import (
	"cmp"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", hello)
	mux.HandleFunc("/slow", slow)
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/sse", events)
	mux.HandleFunc("/env", environment)
	addr := net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("http_port"), "3000"))
	log.Fatal(http.ListenAndServe(addr, mux))
}

func hello(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "Hello from Go")
}

// number is a query parameter, or fallback when it is absent or no number that
// is positive.
func number(r *http.Request, name string, fallback int) int {
	n, err := strconv.Atoi(r.FormValue(name))
	if err != nil || n < 0 {
		return fallback
	}
	return n
}

func slow(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(time.Duration(number(r, "ms", 250)) * time.Millisecond):
		hello(w, r)
	case <-r.Context().Done():
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	// Without full duplex the server reads the whole body before the first
	// byte of the answer goes out.
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			_ = control.Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // a cut body must not look complete
		}
	}
}

func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	for i := range number(r, "n", 5) {
		if i > 0 {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i, time.Now().UTC().Format(time.RFC3339Nano))
		if control.Flush() != nil {
			return
		}
	}
}

func environment(w http.ResponseWriter, _ *http.Request) {
	env := os.Environ()
	slices.Sort(env)
	fmt.Fprintln(w, strings.Join(env, "\n"))
}
