package main_test

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/bench/cage"
)

// pictures is load for ImageMagick: a small picture that becomes a large one
// takes 30 MiB and a quarter of a second of processor time.
func pictures(t testing.TB) (command string, load crowd) {
	t.Helper()
	path, err := exec.LookPath("convert-im6.q16") // what Debian calls it
	if err != nil {
		if path, err = exec.LookPath("convert"); err != nil {
			t.Skipf("ImageMagick is not installed: %v", err)
		}
	}
	if out, err := exec.Command(path, "-version").Output(); err != nil || !bytes.Contains(out, []byte("ImageMagick")) {
		t.Skipf("%s is not ImageMagick's: %v", path, err)
	}
	noise := rand.New(rand.NewPCG(1, 2))
	var picture strings.Builder
	picture.WriteString("P6 400 300 255 ")
	for range 400 * 300 * 3 {
		picture.WriteByte(byte(noise.Uint32()))
	}
	args := []string{"ppm:-", "-resize", "1600x1200", "-rotate", "90", "jpg:-"}
	convert := exec.Command(path, args...)
	convert.Stdin = strings.NewReader(picture.String())
	want, err := convert.Output()
	if err != nil || len(want) == 0 {
		t.Fatalf("convert: %v", err)
	}
	return path + " " + strings.Join(args, " "), crowd{
		clients: 12, path: "/", method: "POST", body: picture.String(), want: string(want), time: 8 * time.Second, pause: 100 * time.Millisecond,
	}
}

// The story that max_inflight was made for: a function with 128 MiB that
// starts a converter for each request, and more requests than fit. One at a
// time is safe and slow; the guard finds by itself how many fit; without
// either the kernel kills.
func TestConverterUnderAMemoryLimit(t *testing.T) {
	command, load := pictures(t)
	launch := func(t *testing.T, env ...string) *caged {
		w := launchCaged(t, cage.Limits{Memory: 128 * mib}, append([]string{"mode=streaming", "fprocess=" + command, "log_buffer_size=4096"}, env...)...)
		w.waitReady()
		return w
	}
	t.Run("max_inflight=1", func(t *testing.T) {
		w, load := launch(t, "max_inflight=1", "max_memory=off"), load
		load.reasons = "inflight"
		y := load.run(w.instance)
		y.fair(t)
		w.survived()
		if y.mean > 1.01 {
			t.Errorf("%.2f in flight on average with max_inflight=1", y.mean)
		}
	})
	t.Run("guard", func(t *testing.T) {
		w, load := launch(t), load
		load.reasons = "memory"
		y := load.run(w.instance)
		y.fair(t)
		w.survived()
		if y.refused["memory"] == 0 {
			t.Error("nothing was refused: this is no load")
		}
	})
	t.Run("both", func(t *testing.T) {
		w, load := launch(t, "max_inflight=6"), load
		load.reasons = "memory inflight"
		load.run(w.instance).fair(t)
		w.survived()
	})
	t.Run("neither", func(t *testing.T) {
		w := launch(t, "max_memory=off")
		t.Log(load.run(w.instance))
		w.died()
	})
}
