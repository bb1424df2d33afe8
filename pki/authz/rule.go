package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
)

// rule is what a method's .proto says of it.
type rule struct {
	callers []authzpb.Caller
	verbs   []verb
}

// rules caches them by full method name. Descriptors never change, so an entry
// never does.
var rules sync.Map // string → *rule

// ruleOf returns who may call the method "/package.Service/Method", and what it does.
func ruleOf(fullMethod string) (*rule, error) {
	if r, ok := rules.Load(fullMethod); ok {
		return r.(*rule), nil
	}
	service, method, ok := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if !ok || service == "" || method == "" {
		return nil, fmt.Errorf("%q is not a method name", fullMethod)
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("no such service: %s", service)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("no such service: %s", service)
	}
	md := sd.Methods().ByName(protoreflect.Name(method))
	if md == nil {
		return nil, fmt.Errorf("service %s has no method %s", service, method)
	}
	r, err := declared(md)
	if err != nil {
		return nil, err
	}
	rules.Store(fullMethod, r)
	return r, nil
}

// operators are the callers who do what roles and policies let them.
var operators = []authzpb.Caller{authzpb.Caller_CALLER_MANAGER_LOCAL_ROOT, authzpb.Caller_CALLER_PERSON, authzpb.Caller_CALLER_LOCAL_USER}

func declared(md protoreflect.MethodDescriptor) (*rule, error) {
	opts := md.Options()
	if !proto.HasExtension(opts, authzpb.E_Rule) {
		return nil, fmt.Errorf("%s declares no caller (option redoubt.authz.v1.rule), so it is refused to everybody", md.FullName())
	}
	r := proto.GetExtension(opts, authzpb.E_Rule).(*authzpb.Rule)
	callers := r.GetCallers()
	if len(callers) == 0 || slices.Contains(callers, authzpb.Caller_CALLER_UNSPECIFIED) {
		return nil, fmt.Errorf("%s declares no caller (option redoubt.authz.v1.rule), so it is refused to everybody", md.FullName())
	}
	for _, c := range callers {
		if _, known := authzpb.Caller_name[int32(c)]; !known {
			return nil, fmt.Errorf("%s declares the unknown caller %d", md.FullName(), c)
		}
	}
	forOperators := slices.ContainsFunc(callers, func(c authzpb.Caller) bool { return slices.Contains(operators, c) })
	switch has := len(r.GetVerbs()) > 0; {
	case has && r.GetOwn():
		return nil, fmt.Errorf("%s declares verbs and that it is its caller's own", md.FullName())
	case has && !forOperators:
		return nil, fmt.Errorf("%s declares verbs, but none of its callers is judged by them", md.FullName())
	case forOperators && !has && !r.GetOwn():
		return nil, fmt.Errorf("%s says not what it does (verbs of option redoubt.authz.v1.rule, or own), so it is refused to everybody", md.FullName())
	}
	verbs, err := compileVerbs(md.Input(), r.GetVerbs())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", md.FullName(), err)
	}
	return &rule{callers, verbs}, nil
}

// CheckAll returns an error naming every method of the services ("package.Name")
// that has no usable rule.
func CheckAll(services ...string) error {
	var errs []error
	for _, name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			errs = append(errs, fmt.Errorf("no such service: %s", name))
			continue
		}
		sd, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			errs = append(errs, fmt.Errorf("no such service: %s", name))
			continue
		}
		for i := range sd.Methods().Len() {
			if _, err := declared(sd.Methods().Get(i)); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// CheckServer is CheckAll for what is registered with a server. Call it before
// Serve.
func CheckServer(s grpc.ServiceRegistrar) error {
	lister, ok := s.(interface {
		GetServiceInfo() map[string]grpc.ServiceInfo
	})
	if !ok {
		return fmt.Errorf("cannot list the services of a %T", s)
	}
	var names []string
	for name := range lister.GetServiceInfo() {
		names = append(names, name)
	}
	slices.Sort(names)
	return CheckAll(names...)
}
