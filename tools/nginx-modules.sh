# Sourced by setup.sh and asan.sh: how the nginx that we build ourselves is configured, with all the modules that a test uses.
# shellcheck shell=bash disable=SC2034
nginx_modules=(--with-compat --with-debug --with-threads --with-pcre-jit --with-http_ssl_module --with-http_v2_module
    --with-http_stub_status_module --with-http_realip_module --with-http_auth_request_module --with-http_dav_module
    --with-http_addition_module --with-http_sub_module --with-http_slice_module --with-http_gunzip_module)
