// Command fibonacci is a function that knows nothing of weir: a plain HTTP
// server, as SlimFaas's sample is. It says which pod answers, since when that
// runs, and how many requests it has had at once.
//
//	GET  /hello/NAME         greets
//	POST /fibonacci          {"input":N} → {"result":the Nth number}
//	?ms=N                    takes that long first
//
// START_AFTER keeps it from listening for so long.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	longest       = time.Minute
	// drain is how long requests under way may take after SIGTERM.
	drain = 30 * time.Second
	// highest is the last of the numbers that fits into 64 bits.
	highest = 93
)

var (
	pod     = os.Getenv("HOSTNAME")
	started string
	// atOnce are the requests under way, most the highest number of them.
	atOnce, most atomic.Int64
)

func main() {
	listen := os.Getenv("LISTEN")
	if listen == "" {
		listen = defaultListen
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if text := os.Getenv("START_AFTER"); text != "" {
		after, err := time.ParseDuration(text)
		if err != nil {
			log.Fatalf("START_AFTER: %v", err)
		}
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return
		}
	}
	started = time.Now().UTC().Format(time.RFC3339Nano)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello/{name}", counted(hello))
	mux.HandleFunc("POST /fibonacci", counted(fibonacci))
	server := &http.Server{Addr: listen, Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
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

// counted counts the request, takes the time that it asks for, and says who
// answers.
func counted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n := atOnce.Add(1)
		defer atOnce.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); {
			seen = most.Load()
		}
		if ms, err := strconv.ParseUint(r.URL.Query().Get("ms"), 10, 32); err == nil {
			select {
			case <-time.After(min(time.Duration(ms)*time.Millisecond, longest)):
			case <-r.Context().Done():
				return
			}
		}
		h := w.Header()
		h.Set("X-Pod", pod)
		h.Set("X-Started", started)
		h.Set("X-Most", strconv.FormatInt(most.Load(), 10))
		next(w, r)
	}
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "Hello %.100s\n", r.PathValue("name"))
}

func fibonacci(w http.ResponseWriter, r *http.Request) {
	var q struct{ Input int }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&q); err != nil || q.Input < 0 || q.Input > highest {
		http.Error(w, fmt.Sprintf(`expected {"input":N}, N from 0 to %d`, highest), http.StatusBadRequest)
		return
	}
	a, b := uint64(0), uint64(1)
	for range q.Input {
		a, b = b, a+b
	}
	fmt.Fprintf(w, `{"result":%d}`+"\n", a)
}
