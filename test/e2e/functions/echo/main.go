// Command echo is the function of the end-to-end tests. It says which pod
// answers and since when that runs, and does what the query asks for.
//
//	GET  /            says hello
//	POST /            gives the body back
//	?ms=N             takes that long first
//	?status=N         answers with that status
//	?tell=URL         POSTs to URL/begin first and to URL/end last, and answers
//	                  with the status of whichever did not say 200
//	POST /alloc?mb=N  takes that much memory, and keeps it
//	GET /sse?n=N      N events, one each ms
//	Upgrade: websocket, or any other: gives back every byte, until it is closed
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// defaultListen is where fwatchdog looks. Without one: LISTEN=:8080.
	defaultListen = "127.0.0.1:3000"
	longest       = 10 * time.Minute
	// drain is how long requests under way may take after SIGTERM, of an echo
	// that nothing drains for.
	drain = 30 * time.Second
)

var (
	pod     = os.Getenv("HOSTNAME")
	started = time.Now().UTC().Format(time.RFC3339Nano)
	served  atomic.Int64
)

func main() {
	listen := os.Getenv("LISTEN")
	if listen == "" {
		listen = defaultListen
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", answer)
	mux.HandleFunc("/sse", events)
	mux.HandleFunc("POST /alloc", alloc)
	server := &http.Server{Addr: listen, Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		<-told
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			log.Print(err)
		}
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
}

func number(r *http.Request, name string) int {
	n, err := strconv.ParseUint(r.FormValue(name), 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

func pause(r *http.Request, ms int) bool {
	if ms == 0 {
		return true
	}
	timer := time.NewTimer(min(time.Duration(ms)*time.Millisecond, longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// identify writes which process answers.
func identify(h http.Header) {
	h.Set("X-Pod", pod)
	h.Set("X-Started", started)
	h.Set("X-Served", strconv.FormatInt(served.Add(1), 10))
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		upgrade(w, r)
		return
	}
	identify(w.Header())
	var body []byte
	var err error
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if body, err = io.ReadAll(r.Body); err != nil {
			log.Printf("%s body: %v", r.Method, err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	status, listener := number(r, "status"), r.FormValue("tell")
	if listener != "" {
		status = tell(listener + "/begin")
	}
	if !pause(r, number(r, "ms")) {
		return
	}
	if listener != "" && status == http.StatusOK {
		status = tell(listener + "/end")
	}
	if status >= 200 && status <= 599 {
		w.WriteHeader(status)
	}
	if body == nil {
		body = []byte("hello\n")
	}
	w.Write(body)
}

func events(w http.ResponseWriter, r *http.Request) {
	identify(w.Header())
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for i := range number(r, "n") {
		fmt.Fprintf(w, "data: %d\n\n", i)
		if out.Flush() != nil || !pause(r, number(r, "ms")) {
			return
		}
	}
}

// upgrade answers 101 and then gives back what comes. What is in it is
// between the ends: a proxy in between has no part in it.
func upgrade(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	h := http.Header{"Connection": {"Upgrade"}, "Upgrade": {r.Header.Get("Upgrade")}}
	identify(h)
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(conn)
	fmt.Fprint(conn, "\r\n")
	in := bufio.NewReader(io.MultiReader(io.LimitReader(rw, int64(rw.Reader.Buffered())), conn))
	if _, err := io.Copy(conn, in); err != nil {
		log.Printf("upgraded connection: %v", err)
	}
}
