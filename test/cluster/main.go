// Command cluster brings up a real single-node Kubernetes on this machine, in
// a network namespace with no way out, from Debian's containerd and runc and
// from Kubernetes built from its own module. Tests start it; so can people.
//
//	cluster deps
//	cluster build -bin DIR
//	cluster up -dir DIR -bin DIR -netns NAME
//	cluster down -dir DIR -netns NAME
//	cluster image -dir DIR -name NAME:TAG FILE=PATH...
//	cluster import -dir DIR TAR...
//	cluster fault -dir DIR [-down 5s] apiserver-restart
//	cluster fault -dir DIR pod-kill NAMESPACE/POD
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

var usages = map[string]string{
	"deps":   "deps: install the Debian packages that are missing",
	"build":  "build -bin DIR [-only NAME,...]: build Kubernetes, helm, faas-cli and pause",
	"up":     "up -dir DIR -bin DIR -netns NAME [-keep]: run the node until SIGTERM, SIGINT or, without -keep, the end of stdin",
	"down":   "down -dir DIR -netns NAME: remove what a killed cluster up left, without starting another",
	"image":  "image -dir DIR -name NAME:TAG [-entrypoint CMD] [-user UID] [-env K=V] FILE=PATH...: make an image of files and import it",
	"import": "import -dir DIR TAR...: import images from docker-archive or OCI tars",
	"fault":  "fault -dir DIR [-down 5s] PROGRAM-restart | pod-kill NAMESPACE/POD: kill -9 a program of the node (apiserver, kubelet, ...), start it again and wait until it answers; or kill -9 a pod's processes",
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("name a command\n" + usage())
	}
	commands := map[string]func(context.Context, []string) error{
		"deps": depsCommand, "build": buildCommand, "up": upCommand, "down": downCommand,
		"image": imageCommand, "import": importCommand, "fault": faultCommand,
	}
	command, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("there is no command %q\n%s", args[0], usage())
	}
	return command(ctx, args[1:])
}

func usage() string {
	var b strings.Builder
	for _, name := range []string{"deps", "build", "up", "down", "image", "import", "fault"} {
		fmt.Fprintf(&b, "  cluster %s\n", usages[name])
	}
	return b.String()
}

// parse reads the flags of a command and says which of the needed are missing.
func parse(flags *flag.FlagSet, args []string, needed ...string) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w\n  cluster %s", err, usages[flags.Name()])
	}
	for _, name := range needed {
		if flags.Lookup(name).Value.String() == "" {
			return fmt.Errorf("%s needs -%s\n  cluster %s", flags.Name(), name, usages[flags.Name()])
		}
	}
	return nil
}

func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s needs root, and this is uid %d: run it with sudo", what, os.Geteuid())
	}
	return nil
}
