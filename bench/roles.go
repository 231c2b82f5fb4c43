package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The bench starts itself for every program that a watchdog is compared with
// or stands before: `bench role NAME ADDR ARG...`.
var roles = map[string]func(addr string, args []string) error{
	"upstream":     func(addr string, _ []string) error { return fixedAnswers(addr) },
	"reverseproxy": reverseProxy,
	"refuser":      refuser,
	"forker":       forker,
	"handler":      handler,
	"ballast":      ballast,
	"slots":        slots,
	"shaped":       shaped,
	"describer":    describer,
	"asker":        asker,
	"late":         late,
	"burst":        burstRole,
	"worker":       worker,
}

// fixedAnswers is the handler behind every proxy: one thread, epoll, one fixed
// answer for whatever ends in an empty line.
func fixedAnswers(addr string) error {
	fixed := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n")
	listener, err := listenFD(addr)
	if err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	watch := func(fd int) error {
		return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	}
	if err := watch(listener); err != nil {
		return err
	}
	events, buf := make([]unix.EpollEvent, 256), make([]byte, maxAnswer)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, event := range events[:max(n, 0)] {
			fd := int(event.Fd)
			if fd == listener {
				if fd, _, err = unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); err == nil {
					_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
					err = watch(fd)
				}
				if err != nil {
					return err
				}
				continue
			}
			n, err := unix.Read(fd, buf)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if n <= 0 {
				unix.Close(fd)
				continue
			}
			// A head that comes in pieces is answered with its last one.
			if bytes.HasSuffix(buf[:n], headEnd) {
				_, _ = unix.Write(fd, fixed)
			}
		}
	}
}

func listenFD(addr string) (int, error) {
	to, err := sockaddr(addr)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, to); err != nil {
		return 0, err
	}
	return fd, unix.Listen(fd, 1024)
}

// reverseProxy is the rival of http mode: httputil.ReverseProxy and nothing
// else, with a transport that keeps its connections, which the default one
// would not.
func reverseProxy(addr string, args []string) error {
	target, err := url.Parse("http://" + args[0])
	if err != nil {
		return err
	}
	return http.ListenAndServe(addr, &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
	})
}

// refuser gives the answer whose bytes it is started with.
func refuser(addr string, args []string) error {
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(args[0])), nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	resp.Header.Del("Date")
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		for name, values := range resp.Header {
			for _, value := range values {
				h.Add(name, value)
			}
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(body)
	}))
}

// forker is the rival of the modes that fork: net/http and os/exec, a process
// for a request, its answer streamed or held back until it has ended.
func forker(addr string, args []string) error {
	mode, command := args[0], args[1:]
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cmd := exec.CommandContext(r.Context(), command[0], command[1:]...)
		w.Header().Set("Content-Type", "application/octet-stream")
		if mode == "streaming" {
			cmd.Stdin, cmd.Stdout = r.Body, w
			if err := cmd.Run(); err != nil {
				panic(http.ErrAbortHandler)
			}
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		cmd.Stdin = bytes.NewReader(body)
		out, err := cmd.Output()
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(out)
	}))
}

// handler serves what a fixed answer cannot: /work is done in args[0] slots
// and takes args[1], /hold lasts until its client leaves, /sink reads a body,
// /bytes?n=N answers with N bytes.
func handler(addr string, args []string) error {
	slots, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	work, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	free := make(chan struct{}, slots)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		free <- struct{}{}
		time.Sleep(work)
		<-free
		_, _ = io.WriteString(w, "done\n")
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d\n", n)
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.CopyN(w, zeros{}, n)
	})
	return http.ListenAndServe(addr, mux)
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
