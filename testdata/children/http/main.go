// Command http is a handler for http mode that does whatever a path asks of
// it: well, slowly, wrongly or not at all. It knows nothing of signals.
//
// LISTEN is where it listens: host:port, or a path for a unix socket. It
// waits for the file GATE to exist before it listens, when GATE is set.
// RECORD is a file that it adds one line of JSON to for each request.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "sleep" {
		d, _ := time.ParseDuration(os.Args[2])
		time.Sleep(d)
		return
	}
	if gate := os.Getenv("GATE"); gate != "" {
		await(gate)
	}
	network, address := "tcp", os.Getenv("LISTEN")
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
	http.Serve(l, http.HandlerFunc(serve))
}

// await returns once a file exists.
func await(file string) {
	for {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// seen is what the handler saw of a request.
type seen struct {
	ID       string
	Method   string
	URI      string
	Host     string
	Proto    string
	Header   http.Header
	Length   int64
	Encoding []string
	Body     int
	Sum      string
	BodyErr  string
	Trailer  http.Header
}

var recording sync.Mutex

func record(v any) {
	name := os.Getenv("RECORD")
	if name == "" {
		return
	}
	line, _ := json.Marshal(v)
	recording.Lock()
	defer recording.Unlock()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		f.Write(append(line, '\n'))
		f.Close()
	}
}

var routes = map[string]func(w http.ResponseWriter, r *http.Request, body []byte){
	"/slow":       slow,
	"/status":     status,
	"/file":       file,
	"/stream":     stream,
	"/cut":        cut,
	"/hang":       hang,
	"/exit":       func(_ http.ResponseWriter, r *http.Request, _ []byte) { os.Exit(number(r, "code", 0)) },
	"/shout":      shout,
	"/headers":    headers,
	"/trailers":   trailers,
	"/hints":      hints,
	"/packed":     packed,
	"/redirect":   func(w http.ResponseWriter, r *http.Request, _ []byte) { http.Redirect(w, r, "/elsewhere", 302) },
	"/log":        logLines,
	"/grandchild": grandchild,
	"/pid":        func(w http.ResponseWriter, _ *http.Request, _ []byte) { fmt.Fprint(w, os.Getpid()) },
	"/env":        func(w http.ResponseWriter, _ *http.Request, _ []byte) { json.NewEncoder(w).Encode(os.Environ()) },
}

func serve(w http.ResponseWriter, r *http.Request) {
	s := seen{ID: r.Header.Get("X-Id"), Method: r.Method, URI: r.RequestURI, Host: r.Host, Proto: r.Proto,
		Header: r.Header.Clone(), Length: r.ContentLength, Encoding: r.TransferEncoding}
	if r.URL.Path == "/upgrade" {
		record(s)
		upgrade(w, r)
		return
	}
	if r.URL.Path == "/early" {
		record(s)
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusTeapot)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.BodyErr = err.Error()
	}
	sum := sha256.Sum256(body)
	s.Body, s.Sum, s.Trailer = len(body), hex.EncodeToString(sum[:]), r.Trailer
	record(s)
	if route := routes[r.URL.Path]; route != nil {
		route(w, r, body)
		return
	}
	switch r.URL.Path {
	case "/echo":
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Write(body)
	default: // what it saw
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s)
	}
}

func number(r *http.Request, name string, otherwise int) int {
	if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil {
		return n
	}
	return otherwise
}

// slow answers ms later, with the body that came.
func slow(w http.ResponseWriter, r *http.Request, body []byte) {
	time.Sleep(time.Duration(number(r, "ms", 100)) * time.Millisecond)
	if len(body) == 0 {
		body = []byte("slow")
	}
	w.Write(body)
}

func status(w http.ResponseWriter, r *http.Request, _ []byte) {
	w.WriteHeader(number(r, "code", 200))
}

// file answers when the file named exists.
func file(w http.ResponseWriter, r *http.Request, _ []byte) {
	await(r.URL.Query().Get("name"))
	fmt.Fprint(w, "there")
}

// stream sends a first event at once and the last one when the file named
// exists, or breaks off when there is none.
func stream(w http.ResponseWriter, r *http.Request, _ []byte) {
	w.Header().Set("Content-Type", r.URL.Query().Get("type"))
	fmt.Fprint(w, "data: first\n\n")
	http.NewResponseController(w).Flush()
	name := r.URL.Query().Get("name")
	if name == "" {
		panic(http.ErrAbortHandler)
	}
	for {
		if _, err := os.Stat(name); err == nil {
			break
		}
		select {
		case <-r.Context().Done():
			record(seen{ID: "gone"})
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	fmt.Fprint(w, "data: last\n\n")
}

// cut ends an answer before its time.
func cut(w http.ResponseWriter, r *http.Request, _ []byte) {
	if r.URL.Query().Get("framing") == "length" {
		w.Header().Set("Content-Length", "1000")
	}
	fmt.Fprint(w, "only this")
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func hang(_ http.ResponseWriter, r *http.Request, _ []byte) {
	<-r.Context().Done()
	record(seen{ID: "gone"})
}

// shout writes n lines to stderr and exits with code.
func shout(_ http.ResponseWriter, r *http.Request, _ []byte) {
	for i := range number(r, "n", 1) {
		fmt.Fprintf(os.Stderr, "last words %d\n", i)
	}
	os.Exit(number(r, "code", 7))
}

func headers(w http.ResponseWriter, _ *http.Request, _ []byte) {
	h := w.Header()
	h.Set("X-Watchdog-Reject", "inflight")
	h.Set("X-OpenFaaS-Internal", "faas-middleware")
	h.Set("Connection", "X-Hop")
	h.Set("X-Hop", "1")
	h.Set("Keep-Alive", "timeout=9")
	h.Set("Proxy-Authenticate", "Basic")
	h.Add("X-Twice", "a")
	h.Add("X-Twice", "b")
	fmt.Fprint(w, "ok")
}

func trailers(w http.ResponseWriter, r *http.Request, _ []byte) {
	w.Header().Set("Trailer", "X-Sum")
	fmt.Fprint(w, "body")
	http.NewResponseController(w).Flush()
	w.Header().Set("X-Sum", "42")
	w.Header().Set(http.TrailerPrefix+"X-Late", r.Trailer.Get("X-Up"))
}

func hints(w http.ResponseWriter, _ *http.Request, _ []byte) {
	w.Header().Set("Link", "</style.css>; rel=preload")
	w.WriteHeader(http.StatusEarlyHints)
	fmt.Fprint(w, "final")
}

// packed always answers gzip, asked or not.
func packed(w http.ResponseWriter, _ *http.Request, _ []byte) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, "packed")
	z.Close()
	w.Header().Set("Content-Encoding", "gzip")
	w.Write(b.Bytes())
}

// logLines writes one line of n bytes to stderr or stdout.
func logLines(w http.ResponseWriter, r *http.Request, _ []byte) {
	out := os.Stderr
	if r.URL.Query().Get("to") == "stdout" {
		out = os.Stdout
	}
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	for n := number(r, "n", 1); n > 0; n -= len(chunk) {
		out.Write(chunk[:min(n, len(chunk))])
	}
	out.WriteString("\n")
	fmt.Fprint(w, "logged")
}

// grandchild leaves a process behind that holds stdout and stderr.
func grandchild(w http.ResponseWriter, r *http.Request, _ []byte) {
	cmd := exec.Command(os.Args[0], "sleep", r.URL.Query().Get("for"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: r.URL.Query().Get("session") == "own"}
	if err := cmd.Start(); err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	fmt.Fprint(w, cmd.Process.Pid)
}

// upgrade echoes what comes after 101.
func upgrade(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
		http.Error(w, "no upgrade asked for", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	io.Copy(conn, buffered)
}
