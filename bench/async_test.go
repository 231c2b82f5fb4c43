package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestReadLedgers(t *testing.T) {
	folder := t.TempDir()
	at := func(ms int64) uint64 { return uint64(ms * int64(time.Millisecond)) }
	write := func(name string, spans ...[2]int64) {
		var data []byte
		for _, s := range spans {
			data = binary.LittleEndian.AppendUint64(data, at(s[0]))
			data = binary.LittleEndian.AppendUint64(data, at(s[1]))
		}
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1"+ledgerSuffix, [2]int64{1000, 1010}, [2]int64{1005, 1500})
	write("2"+ledgerSuffix, [2]int64{2000, 3000}, [2]int64{900, 990})
	write("gate")
	w, err := readLedgers(folder)
	if err != nil || w.calls != 4 || w.first.UnixMilli() != 900 || w.last.UnixMilli() != 3000 || w.busy != 1595*time.Millisecond {
		t.Errorf("%+v, %v", w, err)
	}
	if rate, share := fmt.Sprintf("%.3f", w.rate()), fmt.Sprintf("%.3f", w.share(2)); rate != "1.905" || share != "0.380" {
		t.Errorf("%s a second, %s of two places", rate, share)
	}
	if err := os.WriteFile(filepath.Join(folder, "3"+ledgerSuffix), make([]byte, 17), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLedgers(folder); err == nil {
		t.Error("half a line is taken")
	}
}

// TestWorker: the handler serves once the gate is there, and writes down calls
// and nothing else.
func TestWorker(t *testing.T) {
	folder := t.TempDir()
	gate := filepath.Join(folder, "gate")
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = worker(addr, []string{gate, "1ms", folder}) }() // it ends with the test
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("it listens before the gate is there")
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := answers200(t.Context(), addr, "/"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		resp, err := http.Post("http://"+addr+"/", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if w, err := readLedgers(folder); err != nil || w.calls != 3 || w.busy < 3*time.Millisecond {
		t.Errorf("%+v, %v", w, err)
	}
}

// TestQueueUp: exactly as many calls are sent as are wanted, and what is no 202
// ends it.
func TestQueueUp(t *testing.T) {
	var mu sync.Mutex
	came, refuse := 0, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		came++
		if r.ContentLength != asyncBody || r.URL.Path != heldPath || refuse {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Location", fmt.Sprint(asyncCallPath, came))
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	ids, err := queueUp(context.Background(), addr, heldPath, 500)
	if err != nil || came != 500 {
		t.Fatalf("%d came: %v", came, err)
	}
	seen := map[string]bool{}
	for _, id := range ids {
		seen[id] = true
	}
	if len(seen) != 500 || !seen["500"] {
		t.Errorf("%d IDs", len(seen))
	}
	refuse = true
	if _, err := queueUp(context.Background(), addr, heldPath, 500); err == nil {
		t.Error("a refusal is taken")
	}
}

func TestAsyncRequest(t *testing.T) {
	head, body, _ := strings.Cut(string(asyncRequest(heldPath)), "\r\n\r\n")
	if len(body) != asyncBody || !strings.HasSuffix(body, "\r\n\r\n") || !strings.Contains(head, fmt.Sprintf("Content-Length: %d", asyncBody)) {
		t.Errorf("%d bytes after %q", len(body), head)
	}
}
