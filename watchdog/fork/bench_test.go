package fork

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-run/weir/watchdog/process"
)

// BenchmarkFork is measured beside the least that does the same: os/exec in a
// handler of net/http. The rival has no
// timeout, no log, no CGI variables and no check of the exit.
func BenchmarkFork(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	reaper := process.NewReaper(false)
	defer reaper.Close()
	env := os.Environ()
	ours := func(m Mode) http.HandlerFunc {
		h := &Handler{Mode: m, Reaper: reaper, Command: []string{"cat"}, Environ: env, CGIHeaders: true,
			ContentType: "text/plain", MaxBuffered: 1 << 20, Stderr: null, PrefixLogs: true, LogBufferSize: 65536}
		return func(w http.ResponseWriter, r *http.Request) {
			if err := h.Serve(w, r, time.Now().Add(time.Minute)); err != nil {
				b.Error(err)
			}
		}
	}
	bare := func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		cmd := exec.Command("cat")
		cmd.Env, cmd.Stderr = env, null
		cmd.Stdin, cmd.Stdout = r.Body, w
		if err := cmd.Run(); err != nil {
			b.Error(err)
		}
	}
	bareBuffered := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		cmd := exec.Command("cat")
		cmd.Env, cmd.Stderr = env, null
		cmd.Stdin = bytes.NewReader(body)
		out, err := cmd.Output()
		if err != nil {
			b.Error(err)
		}
		w.Write(out)
	}
	for _, c := range []struct {
		name       string
		bare, ours http.HandlerFunc
	}{
		{"streaming", bare, ours(Streaming)},
		{"serializing", bareBuffered, ours(Serializing)},
	} {
		for _, connections := range []int{1, 8} {
			b.Run(c.name+"/"+strconv.Itoa(connections), func(b *testing.B) {
				versus(b, c.bare, c.ours, connections)
			})
		}
	}
}

// versus sends rounds of requests to the two in turn, so that whatever else
// the machine does hits both alike, and reports what the median round took for
// one request, and the ratio of the two: over 1, ours is faster.
func versus(b *testing.B, bare, ours http.HandlerFunc, connections int) {
	const round = 16
	var took [2][]float64
	var servers [2]*httptest.Server
	for i, h := range []http.HandlerFunc{bare, ours} {
		servers[i] = httptest.NewServer(h)
		defer servers[i].Close()
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	for n := 0; b.Loop(); n++ {
		which := n % 2
		begin := time.Now()
		load(b, client, servers[which].URL, round, connections)
		took[which] = append(took[which], float64(time.Since(begin))/round)
	}
	var median [2]float64
	for i, all := range took {
		if len(all) == 0 {
			return
		}
		slices.Sort(all)
		median[i] = all[len(all)/2]
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median[0], "exec-ns/req")
	b.ReportMetric(median[1], "fork-ns/req")
	b.ReportMetric(median[0]/median[1], "exec/fork")
}

func load(b *testing.B, client *http.Client, url string, requests, connections int) {
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			for range requests / connections {
				resp, err := client.Post(url, "text/plain", strings.NewReader("hello, world"))
				if err != nil {
					b.Error(err)
					return
				}
				if n, _ := io.Copy(io.Discard, resp.Body); n != 12 {
					b.Errorf("%d bytes", n)
				}
				_ = resp.Body.Close()
			}
		})
	}
	wg.Wait()
}
