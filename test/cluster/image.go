package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// An image is one layer of files and what to run of them.
type image struct {
	name       string // as a pod spec says it
	entrypoint []string
	user       string
	env        []string
	files      map[string]string // path in the image → file on this machine
}

// list is a flag that may be given many times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func imageCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	entrypoint := flags.String("entrypoint", "", "")
	i := image{files: map[string]string{}}
	flags.StringVar(&i.name, "name", "", "")
	flags.StringVar(&i.user, "user", "", "")
	flags.Var((*list)(&i.env), "env", "")
	if err := parse(flags, args, "dir", "name"); err != nil {
		return err
	}
	i.entrypoint = strings.Fields(*entrypoint)
	for _, arg := range flags.Args() {
		file, in, ok := strings.Cut(arg, "=")
		if !ok || !path.IsAbs(in) || path.Clean(in) != in {
			return fmt.Errorf("%q: want FILE=PATH, with the absolute path in the image", arg)
		}
		i.files[in] = file
		if len(i.entrypoint) == 0 {
			i.entrypoint = []string{in} // the first file, unless told
		}
	}
	if len(i.files) == 0 {
		return fmt.Errorf("an image needs at least one file\n  cluster %s", usages["image"])
	}
	return load(ctx, filepath.Join(*dir, "containerd.sock"), i)
}

func importCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	if err := parse(flags, args, "dir"); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("name a tar\n  cluster %s", usages["import"])
	}
	for _, tarball := range flags.Args() {
		f, err := os.Open(tarball)
		if err != nil {
			return err
		}
		err = importTar(ctx, filepath.Join(*dir, "containerd.sock"), f)
		f.Close()
		if err != nil {
			return fmt.Errorf("import %s: %w", tarball, err)
		}
	}
	return nil
}

// load makes the image and imports it.
func load(ctx context.Context, socket string, i image) error {
	var archive bytes.Buffer
	if err := i.write(&archive); err != nil {
		return fmt.Errorf("image %s: %w", i.name, err)
	}
	if err := importTar(ctx, socket, &archive); err != nil {
		return fmt.Errorf("import image %s: %w", i.name, err)
	}
	return nil
}

// write makes what docker save makes: a layer, a configuration and a manifest.
func (i image) write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": i.entrypoint, "User": i.user, "WorkingDir": "/", "Env": append([]string{"PATH=/usr/local/bin:/usr/bin:/bin"}, i.env...)},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hash(layer)}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": hash(config) + ".json", "RepoTags": []string{qualified(i.name)}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{{"layer.tar", layer}, {hash(config) + ".json", config}, {"manifest.json", manifest}} {
		if err := archive.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			return err
		}
		if _, err := archive.Write(f.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

// layer holds the files, the folders that lead to them, and a /tmp that any
// user may write to.
func (i image) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{"/": true}
	mkdir := func(dir string, mode int64) error {
		made[dir] = true
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode})
	}
	if err := mkdir("/tmp", 0o1777); err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(i.files))
	for p := range i.files {
		paths = append(paths, p)
	}
	slices.Sort(paths) // the same files are the same layer
	for _, p := range paths {
		for at := 1; at < len(p); at++ {
			if p[at] == '/' && !made[p[:at]] {
				if err := mkdir(p[:at], 0o755); err != nil {
					return nil, err
				}
			}
		}
		data, err := os.ReadFile(i.files[p])
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(i.files[p])
		if err != nil {
			return nil, err
		}
		// Readable by all: the pod's user owns nothing of the image.
		mode := int64(info.Mode().Perm()) | 0o444
		if err := w.WriteHeader(&tar.Header{Name: p[1:], Mode: mode, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// qualified is the name under which the kubelet will look: short names are
// Docker Hub's, and no tag is latest.
func qualified(name string) string {
	host, rest, found := strings.Cut(name, "/")
	switch {
	case !found:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		name = "docker.io/" + host + "/" + rest
	}
	if !strings.Contains(path.Base(name), ":") {
		name += ":latest"
	}
	return name
}

// importTar gives the tar to containerd and waits until the kubelet can see
// its images: containerd's CRI part learns of them from an event.
func importTar(ctx context.Context, socket string, archive io.Reader) error {
	out, err := ctr(ctx, socket, archive, "images", "import", "-")
	if err != nil {
		return err
	}
	// One line per image: unpacking NAME (DIGEST)...done
	var names []string
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "unpacking" {
			names = append(names, fields[1])
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("the archive has no image with a name: %s", out)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("containerd did not show it to the kubelet within a minute"))
	defer cancel()
	for _, name := range names {
		for {
			shown, err := ctr(ctx, socket, nil, "images", "list", "-q", "name=="+name+`,labels."io.cri-containerd.image"==managed`)
			if err == nil && strings.TrimSpace(shown) == name {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s: %w (%v)", name, context.Cause(ctx), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

func ctr(ctx context.Context, socket string, stdin io.Reader, args ...string) (string, error) {
	if _, err := os.Stat(socket); err != nil {
		return "", fmt.Errorf("containerd's socket: %w: is cluster up running?", err)
	}
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", args[0]+" "+args[1], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// importPause imports the image of every pod's sandbox as soon as containerd
// answers.
func (n *node) importPause(ctx context.Context) error {
	if err := n.wait(ctx, "containerd answers", func(ctx context.Context) error {
		_, err := ctr(ctx, n.socket(), nil, "images", "list", "-q")
		return err
	}); err != nil {
		return err
	}
	return load(ctx, n.socket(), image{name: pauseImage, entrypoint: []string{"/pause"}, files: map[string]string{"/pause": n.program("pause")}})
}
