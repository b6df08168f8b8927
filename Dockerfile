# The course in a container, for a computer or a JupyterHub without a GPU. In the folder of the repository:
#
#     docker build --tag cnnlab .
#     docker run --rm -it -p 127.0.0.1:8888:8888 -v cnnlab-work:/home/student cnnlab
#
# and open the address with its token that JupyterLab prints. Your copy of the course lies in the volume
# cnnlab-work. How to use the image on a hub: chapters/instructor/hub.md.
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

# Everything of the course is read-only for the students; the generated images lie in a cache that they share.
ENV CNNLAB_CACHE=/opt/cnnlab-cache PATH=/opt/cnnlab/.venv/bin:$PATH
WORKDIR /opt/cnnlab
COPY . .
RUN make .venv/.lab TORCH=cpu && pip cache purge

# The first run renders the images for the cache, and shows that the image works. It takes about ten minutes;
# --build-arg PROFILE=smoke is quick, but renders less.
ARG PROFILE=laptop
RUN CNNLAB_PROFILE=$PROFILE cnnlab run

RUN useradd --create-home --uid 1000 student
USER student
WORKDIR /home/student
EXPOSE 8888
# The address of the container, not all addresses of the machine; -p decides who can reach it.
CMD ["sh", "-c", "exec cnnlab lab --no-browser --ServerApp.ip=$(hostname -i)"]
