package main_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// handle is the handler of the tests' functions, an HTTP server on $PORT.
//
//	/…?ms=N   N ms later: method, request URI, length and hash of the body
//	/sse      three events, each after the first when /next was called
//	/upgrade  a conversation of lines
//	/range    ten thousand digits, in parts
//	/dump     the request's head
func handle() {
	signal.Ignore(syscall.SIGHUP)
	mux := http.NewServeMux()
	next := make(chan struct{})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		n, err := io.Copy(hash, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if ms, err := strconv.Atoi(r.URL.Query().Get("ms")); err == nil {
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		w.Header().Set("X-Pid", strconv.Itoa(os.Getpid()))
		fmt.Fprintf(w, "%s %s %d %x\n", r.Method, r.RequestURI, n, hash.Sum(nil))
	})
	mux.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/next", func(http.ResponseWriter, *http.Request) { next <- struct{}{} })
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		for lines := bufio.NewScanner(rw); lines.Scan(); {
			fmt.Fprintf(c, "you said %s\n", lines.Text())
		}
	})
	mux.HandleFunc("/range", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "digits.txt", time.Time{}, strings.NewReader(strings.Repeat("0123456789", 1000)))
	})
	mux.HandleFunc("/dump", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Host: %s\n", r.Host)
		_ = r.Header.Write(w)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux))
	os.Exit(1)
}

// function is an entry of a stack: one with the tests' handler, and lines of
// YAML for its environment and labels, as "name: value".
func function(t testing.TB, name string, environment, labels []string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    fprocess: %s\n    environment:\n      mode: http\n      %s: \"1\"\n      GORACE: atexit_sleep_ms=0\n", name, self, handlerMark)
	for _, line := range environment {
		fmt.Fprintf(&b, "      %s\n", line)
	}
	b.WriteString("    annotations:\n      weir/type: capacity\n")
	for _, line := range labels {
		fmt.Fprintf(&b, "      %s\n", line)
	}
	return b.String()
}

var asleep = []string{`weir/zero: "true"`, `weir/zero-after: 10m`}
