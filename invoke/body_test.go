package invoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// serveBody reads one raw request with ReadBody and returns what came of it.
func serveBody(t *testing.T, max int64, patience time.Duration, send func(net.Conn)) ([]byte, error) {
	t.Helper()
	type result struct {
		body []byte
		err  error
	}
	results := make(chan result, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := ReadBody(r, max)
		results <- result{body, err}
	}))
	server.Config.ReadTimeout = patience
	server.Start()
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(c)
	select {
	case got := <-results:
		return got.body, got.err
	case <-time.After(20 * time.Second):
		t.Fatal("ReadBody did not return")
		return nil, nil
	}
}

func TestReadBody(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	for name, c := range map[string]struct {
		max    int64
		head   string
		body   string
		close  bool
		want   string
		status int // 0: no error
	}{
		"none":               {0, "", "", false, "", 0},
		"known length":       {0, "Content-Length: 5\r\n", "hello", false, "hello", 0},
		"long":               {0, fmt.Sprintf("Content-Length: %d\r\n", len(long)), long, false, long, 0},
		"chunked":            {0, "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", false, "hello", 0},
		"at the bound":       {5, "Content-Length: 5\r\n", "hello", false, "hello", 0},
		"chunked, at bound":  {5, "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", false, "hello", 0},
		"announced too long": {4, "Content-Length: 5\r\n", "", false, "", http.StatusRequestEntityTooLarge},
		"chunked too long":   {4, "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", false, "", http.StatusRequestEntityTooLarge},
		"bad chunk":          {0, "Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n", false, "", http.StatusBadRequest},
		"cut":                {0, "Content-Length: 5\r\n", "hel", true, "", http.StatusBadRequest},
		"too slow":           {0, "Content-Length: 5\r\n", "hel", false, "", http.StatusRequestTimeout},
		"chunked, too slow":  {0, "Transfer-Encoding: chunked\r\n", "5\r\nhel", false, "", http.StatusRequestTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			patience := time.Minute
			if c.status == http.StatusRequestTimeout {
				patience = 500 * time.Millisecond
			}
			body, err := serveBody(t, c.max, patience, func(conn net.Conn) {
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n%s", c.head, c.body)
				if c.close {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
			})
			var request *RequestError
			switch {
			case c.status == 0 && (err != nil || string(body) != c.want):
				t.Errorf("%d bytes, %v", len(body), err)
			case c.status == http.StatusBadRequest && errors.Is(err, context.Canceled): // who left cannot tell
			case c.status != 0 && (!errors.As(err, &request) || request.Status != c.status):
				t.Errorf("%v, want status %d", err, c.status)
			}
		})
	}
}

func TestBodyErrorOfAClientThatLeft(t *testing.T) {
	ctx, leave := context.WithCancel(context.Background())
	leave()
	r := httptest.NewRequest(http.MethodPost, "/", nil).WithContext(ctx)
	if err := BodyError(r, io.ErrUnexpectedEOF); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// What is already known to be the request's fault stays that.
	fault := &RequestError{Status: http.StatusRequestEntityTooLarge, Err: ErrBodyTooLarge}
	if err := BodyError(r, fault); err != error(fault) {
		t.Errorf("%v", err)
	}
}
